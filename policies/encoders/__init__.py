"""What turns the arrays of an observation, images among them, into the numbers of one step."""
