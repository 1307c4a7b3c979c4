"""moto's server of the AWS KMS protocol, on a port of 127.0.0.1, with one key. It checks the signature of each request.

usage: python kms_server.py DIRECTORY PORT KEY_SPEC KEY_ALIAS ACCESS_KEY_ID SECRET_ACCESS_KEY

moto keeps nothing, and makes a new key pair for each key. Here the key pair is that of its kind (RSA, ECDSA) in the
directory, if there is one: it survives a restart, as that of a service does.
"""

import json
import pathlib
import sys

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from moto import server, settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.kms import utils
from moto.kms.models import kms_backends

REGION = "us-east-1"
directory = pathlib.Path(sys.argv[1])
port, spec, alias, access_key_id, secret_access_key = sys.argv[2:]


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
kms = kms_backends[DEFAULT_ACCOUNT_ID][REGION]
key = kms.create_key(policy=None, key_usage="SIGN_VERIFY", key_spec=spec, description="", tags=None)
kms.create_alias(key.id, alias)

# The one user, which may read the public key, and sign.
iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
iam.create_user(REGION, "server")
access_key = iam.create_access_key("server")
access_key.access_key_id, access_key.secret_access_key = access_key_id, secret_access_key
statement = {"Effect": "Allow", "Action": ["kms:GetPublicKey", "kms:Sign"], "Resource": "*"}
iam.put_user_policy("server", "sign", json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0

server.main(["-H", "127.0.0.1", "-p", port])
