"""Carries messages: the bus, the one worker loop, the codec and the blob store. Knows no astronomy."""
