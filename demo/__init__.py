"""What shows Kaizen at work on a real Airflow."""
