"""The options of a run: how a command line and YAML files become them, and what they refuse."""
