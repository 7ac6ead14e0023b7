"""Camera apps: a source of frames, a detector, tracked people, poses, viewers and files.

`types` holds what the stages hand to each other, `pipeline` the loop that runs them; each other file is one stage.
"""
