def pytest_addoption(parser):
    parser.addoption(
        "--backend", choices=("host", "uml", "qemu"), default="uml", help="of tools.vm, to be tested"
    )
