"""From a pipeline file to a plan and a run."""
