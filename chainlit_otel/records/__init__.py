"""What is kept of a session, a turn, a feedback and a score when it is over, and where it goes."""
