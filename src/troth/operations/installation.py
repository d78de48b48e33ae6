"""What the database knows of the servers on it: whose local agent has the plain name."""

from __future__ import annotations

from troth.store.transaction import Transaction

LOCAL = "local"
LOCAL_NODE = "local_node"


def claim_local_node(tx: Transaction, installation: str, *, alone: bool) -> str:
    """The node name of the local agent of `installation`, a server's own random id.

    The first server on a database has ``local``; others have a name of their own, since two nodes
    of one name would cut each other off. A server that is `alone` on its database always has it.
    """
    known = tx.settings.get(LOCAL_NODE)
    if known is None or (alone and known != installation):
        tx.settings.set(LOCAL_NODE, installation)
    elif known != installation:
        return f"{LOCAL}-{installation}"
    return LOCAL
