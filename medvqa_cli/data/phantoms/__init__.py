"""Phantoms: made-up CT, MRI and X-ray pictures of chest, abdomen and head, and questions whose answers are known.

What a picture shows (cases.py) and what is asked about it (questions.py) is drawn without any picture; pictures.py
then draws it. So the law of the answers can be checked on any number of cases in no time.
"""

from medvqa_cli.data.phantoms.cases import Case, draw_cases
from medvqa_cli.data.phantoms.pictures import draw_picture
from medvqa_cli.data.phantoms.questions import MAX_QUESTIONS, Question, draw_questions

__all__ = ["MAX_QUESTIONS", "Case", "Question", "draw_cases", "draw_picture", "draw_questions"]
