"""Files for the vendor's tools, what drives these tools, and what is read from their reports."""
