"""All that knows fairseq: tasks, models, criteria, optimiser, schedule, and what keeps a run alive."""
