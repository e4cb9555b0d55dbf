"""Which of an alias's models a request goes to: by how hard it looks, or by what feedback has taught."""
