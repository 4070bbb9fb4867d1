"""Settings from the environment. (Placeholder until the real one lands.)"""
