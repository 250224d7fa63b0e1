"""What a run is; pydantic only, imports no torch."""
