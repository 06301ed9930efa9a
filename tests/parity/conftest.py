import pytest


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Keeps torch from starting a thread for every core beside those of jax."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
