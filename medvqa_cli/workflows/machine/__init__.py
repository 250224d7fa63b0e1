"""What this machine has and what medvqa can do with it; `workflows.doctor` puts it together."""
