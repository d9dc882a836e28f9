"""Server starts the processes of `nerve serve`, and sets up their logs and metrics."""
