"""One file per op, with what every test and bench goes through.

``CASES`` lists the ways of calling ``torch.ops.wsolfast.<op>``. ``CALL`` is one call of the public function, every
argument by its name.
"""
