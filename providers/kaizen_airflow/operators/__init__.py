"""One operator per stage, in a module of the stage's name; ``stage`` holds what they share."""
