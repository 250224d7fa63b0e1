"use strict";
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
(() => {
  const frames = [...document.querySelectorAll(".frame")];
  const tell = () => {
    for (const frame of frames) {
      const table = frame.querySelector(".scroll");
      frame.querySelector(".sideways").hidden = table.scrollWidth <= table.clientWidth + 1;
    }
  };
  addEventListener("resize", tell);
  addEventListener("toggle", tell, true);
  tell();
})();
(() => {
  const root = document.getElementById("gallery");
  const source = document.getElementById("gallery-data");
  if (!root || !source) return;

  const { questions, pictures } = JSON.parse(source.textContent);
  const form = root.querySelector("form");
  const list = root.querySelector(".cards");
  const status = root.querySelector(".status");
  const more = root.querySelector(".more");
  const batch = Number(root.dataset.batch);
  const fields = [...form.elements].map((control) => control.name).filter(Boolean);
  const choices = fields.filter((name) => name !== "text" && name !== "order");
  let found = [];

  questions.forEach((question, index) => {
    question.index = index;
    question.words = [question.question, question.gold, question.answer, question.id].join("\n").toLowerCase();
  });

  const confidence = (question, missing) => question.confidence ?? missing;
  const orders = {
    listed: (a, b) => a.index - b.index,
    confident: (a, b) => confidence(b, -1) - confidence(a, -1),
    unsure: (a, b) => confidence(a, 2) - confidence(b, 2),
    question: (a, b) => a.question.localeCompare(b.question, "en"),
    mistakes: (a, b) => (a.outcome === "wrong" ? 0 : 1) - (b.outcome === "wrong" ? 0 : 1) || orders.confident(a, b),
  };

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const drawPicture = (question) => {
    const uri = pictures[question.picture];
    if (!uri) return make("p", "picture absent", question.absent);
    const image = make("img", "picture");
    image.decoding = "async";
    image.loading = "lazy";
    image.alt = question.alt;
    image.src = uri;
    return image;
  };

  const drawPairs = (question) => {
    const pairs = make("dl", "pairs");
    for (const [term, text] of [["Gold", question.gold], ["Answer", question.answer], ...question.others]) {
      pairs.append(make("dt", "", term), make("dd", "", text === "" ? "(empty)" : text));
    }
    return pairs;
  };

  const drawConfidence = (question) => {
    if (question.confidence === null) return "";
    const line = make("p", "confidence", `Confidence ${question.confidence.toFixed(2)} (${question.basis})`);
    const bar = make("span", "bar");
    bar.setAttribute("aria-hidden", "true");
    const fill = make("span", "fill");
    fill.style.width = `${100 * question.confidence}%`;
    bar.append(fill);
    line.append(bar);
    return line;
  };

  const drawCard = (question) => {
    const card = make("li", `card ${question.outcome.replaceAll(" ", "-")}`);
    const body = make("div", "body");
    const marks = { right: "✓ right", wrong: "✗ wrong" };
    const tags = make("p", "tags");
    tags.append(make("span", "outcome", marks[question.outcome] ?? question.outcome));
    for (const tag of question.tags) tags.append(make("span", "tag", tag));
    body.append(tags, make("h3", "", question.question), drawPairs(question), drawConfidence(question),
      make("p", "identity", question.id));
    card.append(drawPicture(question), body);
    return card;
  };

  const showMore = () => {
    const start = list.children.length;
    list.append(...found.slice(start, start + batch).map(drawCard));
    more.hidden = list.children.length >= found.length;
    more.textContent = `Show more (${(found.length - list.children.length).toLocaleString("en")} left)`;
  };

  const rememberState = (state) => {
    const query = new URLSearchParams(Object.entries(state).filter(([, value]) => value)).toString();
    const hash = query ? `#questions?${query}` : location.hash.startsWith("#questions?") ? "#questions" : location.hash;
    if (hash !== location.hash) history.replaceState(null, "", hash);
  };

  const update = () => {
    const state = Object.fromEntries(fields.map((name) => [name, form.elements[name].value]));
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    found = questions.filter((question) =>
      choices.every((name) => !state[name] || question[name] === state[name]) &&
      words.every((word) => question.words.includes(word)));
    found.sort(orders[state.order] ?? orders.listed);
    list.replaceChildren();
    showMore();
    const total = questions.length.toLocaleString("en");
    status.textContent = found.length
      ? `${found.length.toLocaleString("en")} of ${total} questions match.`
      : "No question matches: widen the search or clear the filters.";
    rememberState({ ...state, order: state.order === "mistakes" ? "" : state.order });
  };

  const restoreState = () => {
    if (!location.hash.startsWith("#questions?")) return;
    const query = new URLSearchParams(location.hash.slice("#questions?".length));
    for (const name of fields) {
      const control = form.elements[name];
      const value = query.get(name);
      if (value === null) continue;
      if (control.tagName !== "SELECT" || [...control.options].some((option) => option.value === value)) {
        control.value = value;
      }
    }
    document.getElementById("questions").scrollIntoView();
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  more.addEventListener("click", () => {
    const start = list.children.length;
    showMore();
    const first = list.children[start];
    if (first) {
      first.tabIndex = -1;
      first.focus();
    }
  });
  addEventListener("hashchange", () => {
    restoreState();
    update();
  });
  restoreState();
  update();
})();
