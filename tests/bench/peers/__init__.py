"""The same network served in other ways, each as somebody would write it who knows the library."""
