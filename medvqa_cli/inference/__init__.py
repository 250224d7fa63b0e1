"""Model and samples to Prediction rows."""
