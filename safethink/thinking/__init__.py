"""How a reasoner's thinking is written: format, delimiters, turns, chat."""
