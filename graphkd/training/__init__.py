"""Training of teachers, of students, online, and of many seeds at once."""
