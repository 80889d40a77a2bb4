"""Model and data as functions of one flat vector, one file a task. No communication."""
