"""What people say about answers: kept in SQLite, and the page on which they say it."""
