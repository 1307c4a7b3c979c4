"""moto's server of the AWS KMS protocol, on a port of 127.0.0.1. Its keys survive a restart, as those of a service do.

usage: python kms_server.py DIRECTORY PORT

moto keeps nothing, and makes a new key pair for each key. Here a key pair is that of its kind (RSA, ECDSA) in the
directory, if there is one.
"""

import pathlib
import sys

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from moto import server
from moto.kms import utils

directory, port = pathlib.Path(sys.argv[1]), sys.argv[2]


def keep(kind):
    make, file = kind.__init__, directory / f"{kind.__name__}.pem"

    def make_or_load(self, *arguments, **named):
        make(self, *arguments, **named)
        if file.exists():
            self.private_key = load_pem_private_key(file.read_bytes(), None)
        else:
            pem = self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            file.write_bytes(pem)

    kind.__init__ = make_or_load


keep(utils.ECDSAPrivateKey)
keep(utils.RSAPrivateKey)
server.main(["-H", "127.0.0.1", "-p", port])
