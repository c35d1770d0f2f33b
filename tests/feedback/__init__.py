"""What people say, and how it is kept."""
