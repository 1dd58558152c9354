"""The benchmark suite: each figure beside a floor or a peer measured in the same run.

A floor is what the machine itself can do (a bare hash, a bare socket); a peer is another way to
the same end. Only their ratio means something on another machine.
"""
