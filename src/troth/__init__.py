"""troth: the operating system for non-human identities.

Every service, job, device, pipeline and agent on a network gets an identity that it
proves rather than holds, may do only what it is allowed to, is watched, and is stopped
when it misbehaves. The rooms of this package, and which of them may import which, are
described in CONTRIBUTING.md.
"""

__version__ = "0.1.0"
