"""Who may do what: permissions and, later, Cedar policies; decisions and their explanation."""
