"""The Chinese edition of the book: catalogues of its pages, and the pages with the translations put in."""
