"""Who keeps what a loader has, should it be killed: each is a ``Keeper`` of the domain."""
