"""Functions that draw text, bars and charts as styled content."""
