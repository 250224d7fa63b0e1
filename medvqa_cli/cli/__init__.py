"""One file per sub-command: parse, call one workflow, print."""
