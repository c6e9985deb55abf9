"""What a user would pick instead, each written as one who knows the tool would write it."""
