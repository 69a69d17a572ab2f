"""LOOKING INSIDE A MODEL: what its parameters do, seen on the model that runs and on no second one."""
