"""AuthZEN Authorization API 1.0 on the wire: questions, answers, searches and metadata, bounded.

Source: OpenID AuthZEN Authorization API 1.0, and its certification scenario. Unknown members are
ignored, as that demands; what is missing or of the wrong type is refused.
"""
