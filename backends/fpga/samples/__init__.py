"""Small regions of the forms that stream, built by hand."""
