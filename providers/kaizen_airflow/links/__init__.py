"""What a task's page leads to."""
