"""What a front costs and how good it is, beside what a user could run instead."""
