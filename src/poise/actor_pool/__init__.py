"""A drop-in for `ray.util.ActorPool`, for actors that exist already, with or without an event loop."""

from poise.actor_pool.call import ActorCall
from poise.actor_pool.pool import ActorPool

__all__ = ["ActorCall", "ActorPool"]
