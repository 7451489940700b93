"""Names of weights in the first checkpoints of diffusers."""


def old_names(state):
    """As the hub's first checkpoints name the parts of an attention."""
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in state.items():
        for new, old in words.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    return renamed
