"""Who executes the clients' functions: same answer, different speed."""
