"""The Pixtral model in plain PyTorch, independent of files, ranks, quantization and requests.

Modules and parameters carry the official checkpoint's names. A tensor's name ends in its shape:

    T tokens of the step    P patches of the step    R requests
    D decoder width         E vision width           F feed-forward width
    K head width            N query heads            M key/value heads
    B KV blocks             S slots in a block       V vocabulary
    C H W pixels            X values of one patch (C * patch * patch)
"""
