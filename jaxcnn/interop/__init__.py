"""How weights and models come in and go out; import the module you need, such as `jaxcnn.interop.flax`."""
