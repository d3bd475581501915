"""What namespaces cost, with nsnet and without: `python -m bench`, from a checkout.

Every figure stands beside its floor: the same work in straight-line C over raw rtnetlink, compiled on the spot, in the
same kind of namespace, in turns with nsnet; and beside its peers, where others do the same. Nothing here touches the
network that it is started in, and it runs as root and as an ordinary user alike.
"""
