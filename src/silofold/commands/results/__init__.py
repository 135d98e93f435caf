"""What trained models are worth, run beside run: what ``evaluate``, ``compare`` and ``report`` share."""
