"""Applications that worker processes of the tests run. Settings come from the environment, as for any worker."""
