"""Width groups: which elements of which initializers can only be removed together, and what names their number."""
