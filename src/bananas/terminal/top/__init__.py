"""`bananas top`: a live view in a terminal.

frames    what there is, once a second, and the rates between two frames
controls  which keys were pressed, and what they mean
view      a screen full of lines from all that
command   the loop around them, and `--once`
"""
