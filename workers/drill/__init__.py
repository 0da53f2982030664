"""The drill: break a night in every way that is promised to be harmless, and compare it with the undisturbed one."""
