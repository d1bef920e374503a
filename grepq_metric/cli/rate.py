EPILOG = ""


def rate() -> None: ...
