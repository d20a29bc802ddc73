"""The torch domain: from exported programs to the Graph and back."""
